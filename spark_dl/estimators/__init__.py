"""Where saved estimators and models of version 0.1 say that their classes are."""
