{#- An external id that differs only in case or blanks at the end is the same record to Salesforce. -#}
{% test unique_ignoring_case(model, column_name) %}
select lower(trim({{ column_name }})) as same, count(*) as times
from {{ model }}
where {{ column_name }} is not null
group by lower(trim({{ column_name }}))
having count(*) > 1
{% endtest %}
