"""How what is shared lies in memory: slots, rings, histograms, sets of regions."""
