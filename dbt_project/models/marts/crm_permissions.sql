select
    workspace_id,
    contact_id,
    role,
    joined_on
from {{ ref('stg_workspace_permissions') }}
