"""How Detectron2's data sets are evaluated, and what has to be there for it, found before anything is trained."""
