"""A simulated HubSpot for development: token API, chat widget and the support agent's inbox.

The README describes how to add it to a site. Its state is in the memory of one process. All of its views return 404
unless ``DEBUG`` is set.
"""
