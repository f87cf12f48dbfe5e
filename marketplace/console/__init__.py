"""The operator's pages under /admin/: tables, dialogs and the dashboard. Nobody imports them."""
