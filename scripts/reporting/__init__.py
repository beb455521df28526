"""Parts of `report`: runs, groups of them, charts, and the page."""
