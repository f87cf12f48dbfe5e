"""The operator's pages under /admin/: tables, dialogs and the dashboard. No other package imports them."""
