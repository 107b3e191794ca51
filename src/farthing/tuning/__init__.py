"""A model made cheaper with a text's help: calibration, measured sensitivity, and the run of `farthing quantize`.

Above `report`, whose measures it uses, and below `cli`.
"""
