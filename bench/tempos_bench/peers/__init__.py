"""Other publish/subscribe systems on the three nodes: their servers, their clients, raw generators."""
