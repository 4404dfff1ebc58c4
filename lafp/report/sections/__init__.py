"""The report's sections: each a function of the run's record that returns a Section or None."""
