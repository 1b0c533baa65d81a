{#-
  The source, read from its CSV file. A relative folder is taken from the project, not from where dbt happens
  to be started. All text: guessed types would change with the data. Quoting spelled out: a sniffer sees only
  the first rows, and the line breaks and quotes inside values come later.
-#}
{% macro raw(table) %}
    {%- set relation = source('raw', table) -%}
    {%- set folder = env_var('SEQSYNC_SOURCES', 'sources') -%}
    {%- if not modules.re.match('[/\\\\]|[A-Za-z]:', folder) -%}
        {%- set folder = (invocation_args_dict.get('project_dir') or '.') ~ '/' ~ folder -%}
    {%- endif -%}
    read_csv(
        '{{ (folder ~ '/' ~ relation.identifier ~ '.csv') | replace("'", "''") }}',
        header = true, all_varchar = true, delim = ',', quote = '"', escape = '"', nullstr = ''
    )
{%- endmacro %}
