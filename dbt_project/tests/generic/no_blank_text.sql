{#- A blank is neither a value nor a null: a destination would store it, or refuse it. -#}
{% test no_blank_text(model, columns) %}
select *
from {{ model }}
where false
{%- for column in columns %}
   or trim({{ column }}) = ''
{%- endfor %}
{% endtest %}
