"""What a person sees of preprocessing: the tables in the output folder, the one in the terminal, and report.html.

- `tables`: videos.parquet and clips.parquet, their columns, building them
- `drops`: what each rule dropped
- `summary`: the table in the terminal
- `examples`: which clips and videos the report shows, and their pictures as JPEG
- `histogram`: bins, and their chart as SVG
- `markup`: HTML in which nothing can be left unescaped
- `scores`: which columns are charted, and which keys of the config limit them
- `html`: the report
"""
