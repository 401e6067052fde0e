"""The numbers behind every picture of `npgpt play` and `npgpt.show`: one file per view."""
