"""A page that shows what records say: one HTML file that needs nothing else, on no network."""

from fempi.forensics.report.page import page

__all__ = ["page"]
