"""Tables, CSV files and HTML pages of finished studies."""

from pirn_jax.report.page import Gallery, Picture, write_page
from pirn_jax.report.tables import format_table, write_csv

__all__ = ["Gallery", "Picture", "format_table", "write_csv", "write_page"]
