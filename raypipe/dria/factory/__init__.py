"""I am where programs of Dria import small things for their steps from; its ready-made pipelines are not here."""
