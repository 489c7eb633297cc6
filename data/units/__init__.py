"""The units of each stage of preprocessing: what each result depends on, and how it is made."""
