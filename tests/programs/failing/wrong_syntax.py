import os

print(os.environ["RANK"]
