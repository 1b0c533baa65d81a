select
    contact_id,
    account_id,
    workspace_id,
    first_name,
    last_name,
    email,
    phone,
    title,
    description,
    birthdate
from {{ ref('stg_users') }}
