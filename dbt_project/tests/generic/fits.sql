{#- Lengths of the destination's fields, found here rather than as one refusal per row. -#}
{% test fits(model, lengths) %}
select *
from {{ model }}
where false
{%- for column, length in lengths.items() %}
   or length({{ column }}) > {{ length }}
{%- endfor %}
{% endtest %}
