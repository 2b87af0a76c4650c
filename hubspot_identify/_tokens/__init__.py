"""The life cycle of a token: from the cache, or through a worker from HubSpot into the cache. Private."""
