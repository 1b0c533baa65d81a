select
    {{ text('id') }} as contact_id,
    {{ text('account_id') }} as account_id,
    {{ text('workspace_id') }} as workspace_id,
    {{ text('first_name') }} as first_name,
    {{ text('last_name') }} as last_name,
    {{ text('email') }} as email,
    {{ text('phone') }} as phone,
    {{ text('job_title') }} as title,
    {{ text('notes') }} as description,
    {{ typed('birthdate', 'date') }} as birthdate
from {{ raw('raw_users') }}
