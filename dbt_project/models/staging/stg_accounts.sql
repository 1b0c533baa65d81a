select
    {{ text('id') }} as account_id,
    {{ text('name') }} as name,
    {{ text('website') }} as website,
    {{ text('industry') }} as industry,
    {{ typed('employees', 'integer') }} as employees,
    {{ typed('annual_revenue', 'decimal(18, 2)') }} as annual_revenue,
    {{ text('city') }} as city,
    {{ text('country') }} as country,
    {{ text('phone') }} as phone,
    {{ text('description') }} as description,
    {{ typed('customer_since', 'date') }} as customer_since,
    {{ typed('last_seen_at', 'timestamp with time zone') }} as last_seen_at,
    {{ typed('is_active', 'boolean') }} as is_active,
    {{ text('parent_id') }} as parent_account_id,
    {{ text('owner_email') }} as owner_email
from {{ raw('raw_accounts') }}
