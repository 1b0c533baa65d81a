{#- Blanks alone mean nothing was typed; blanks at the end of something are the source's and stay. -#}
{% macro text(column) -%}
    cast(case when trim({{ column }}) <> '' then {{ column }} end as varchar)
{%- endmacro %}

{% macro typed(column, data_type) -%}
    cast(nullif(trim({{ column }}), '') as {{ data_type }})
{%- endmacro %}
