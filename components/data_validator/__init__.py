"""The data validator: applies the schema, looks for drift and skew, and says what that means for the run."""
