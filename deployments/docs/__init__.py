"""The generated parts of the documentation: README's tool table, a page for each group of tools, the tools' JSON schemas.

python -m deployments.docs                     writes them (`make docs`)
python -m deployments.docs --check             says what is not what the code says (`make lint`)
python -m deployments.docs --examples [TOOL]   runs the worked examples in a lab first and records what they print (root)
"""
