select
    {{ text('workspace_id') }} as workspace_id,
    {{ text('user_id') }} as contact_id,
    {{ text('role') }} as role,
    {{ typed('joined_on', 'date') }} as joined_on
from {{ raw('raw_workspace_permissions') }}
