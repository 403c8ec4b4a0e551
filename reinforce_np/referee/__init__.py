"""The referee: any estimator, wrong or right, on a panel of problems where every known mistake shows."""
