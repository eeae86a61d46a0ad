"""Other publish/subscribe systems on the three nodes, measured as tempos is: servers, clients, raw generators."""
