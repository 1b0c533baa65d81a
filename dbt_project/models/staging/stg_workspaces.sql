select
    {{ text('id') }} as workspace_id,
    {{ text('account_id') }} as account_id,
    {{ text('name') }} as name,
    {{ text('plan') }} as plan,
    {{ typed('seats', 'integer') }} as seats,
    {{ typed('mrr', 'decimal(16, 2)') }} as mrr,
    {{ text('region') }} as region,
    {{ typed('trial_ends_at', 'timestamp with time zone') }} as trial_ends_at
from {{ raw('raw_workspaces') }}
