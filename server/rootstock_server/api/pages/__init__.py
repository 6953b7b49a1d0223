"""Pages for people: a tenant's training jobs in a browser, their losses drawn while they run.

Refuses to know how jobs run; what changes on a page is read from the JSON routes.
"""

from rootstock_server.api.pages.jobs import routes

__all__ = ["routes"]
