"""Tasks: what a label means and how it is predicted; one package each."""
