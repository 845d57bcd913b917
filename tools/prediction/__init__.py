"""The input and output files of `detector predict`."""
