"""Who may use what, how much of it, and which version a tenant's task means.

Refuses to know transports and models.
"""
