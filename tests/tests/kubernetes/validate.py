"""Validates a manifest by the API's own schemas, those that refuse unknown fields; prints its objects as JSON."""

import importlib.util
import json
import sys
from pathlib import Path

import jsonschema
from ruamel.yaml import YAML

# Only its schemas: the module itself wants packages that are made for one Python each.
PACKAGE = importlib.util.find_spec("kubernetes_validate").submodule_search_locations[0]
SCHEMAS = Path(PACKAGE) / "kubernetes-json-schema" / f"v{sys.argv[2]}-local-strict"

DEFINITIONS = json.loads((SCHEMAS / "_definitions.json").read_text())

objects = list(YAML(typ="safe", pure=True).load_all(Path(sys.argv[1])))
for thing in objects:
    api = thing["apiVersion"].replace("/", "-")
    schema = json.loads((SCHEMAS / f"{thing['kind'].lower()}-{api}.json").read_text())
    # By the name that references to it have, so that nothing is fetched.
    store = {"https://kubernetes.io/api/_definitions.json": DEFINITIONS}
    resolver = jsonschema.RefResolver.from_schema(schema, store=store)
    jsonschema.Draft7Validator(schema, resolver=resolver).validate(thing)
print(json.dumps(objects))
