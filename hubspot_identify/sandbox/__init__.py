"""A stand-in for HubSpot, for development: token API, chat widget and the support agent's inbox.

The README's "Trying it without HubSpot" says how to have it in a site. Everything it knows is kept in one process's
memory, and all its views are 404 unless ``DEBUG`` is on.
"""
