"""The five folders of the project under one name: no folder of a user can take their place."""
