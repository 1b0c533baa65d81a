select
    workspace_id,
    account_id,
    name,
    plan,
    seats,
    mrr,
    region,
    trial_ends_at
from {{ ref('stg_workspaces') }}
