"""The views: each reads what a page shows in one transaction, as a record that is also the page's JSON twin."""
