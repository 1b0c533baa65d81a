select
    account_id,
    name,
    website,
    industry,
    employees,
    annual_revenue,
    city,
    country,
    phone,
    description,
    customer_since,
    last_seen_at,
    is_active,
    parent_account_id,
    owner_email
from {{ ref('stg_accounts') }}
