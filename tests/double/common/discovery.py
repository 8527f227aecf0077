"""Holds requests and answers to a discovery document of Google: methods, parameters, schemas."""

import base64
import json
import re

GLOBAL_EXTRA = {"$alt", "upload_id", "returnPartialSuccess"}
INTEGERS = {"int32": 31, "uint32": 32}
LONG = {"int64": (-(2**63), 2**63 - 1), "uint64": (0, 2**64 - 1)}
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


class Discovery:
    """One document."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            self.document = json.load(file)
        self.schemas = self.document["schemas"]
        self.common = set(self.document["parameters"]) | GLOBAL_EXTRA
        self.methods = {}
        self.collect(self.document)

    def collect(self, node):
        for method in node.get("methods", {}).values():
            self.methods[method["id"]] = method
        for child in node.get("resources", {}).values():
            self.collect(child)

    def request(self, name, path_parameters, query, body):
        """What is wrong with a request: a list of sentences."""
        method = self.methods.get(name)
        if method is None:
            return [f"{name} is no method"]
        wrong, known = [], method.get("parameters", {})
        for parameter, rule in known.items():
            place = path_parameters if rule["location"] == "path" else query
            if parameter in place:
                wrong += self.parameter(parameter, place[parameter], rule)
            elif rule.get("required"):
                wrong.append(f"parameter {parameter} is missing")
        wrong += [f"{name} has no parameter {given}" for given in query if given not in known and given not in self.common]
        if "request" in method and body is not None:
            wrong += self.value(body, method["request"], "body")
            wrong += self.required(name, body, method["request"])
        elif body:
            wrong.append(f"{name} takes no body")
        return wrong

    def response(self, name, body):
        """What is wrong with an answer that says yes."""
        method = self.methods[name]
        return self.value(body, method["response"], "answer") if "response" in method else []

    def parameter(self, name, text, rule):
        if rule.get("pattern") and not re.fullmatch(rule["pattern"], text):
            return [f"parameter {name}={text!r} is not as {rule['pattern']}"]
        if rule.get("enum") and text not in rule["enum"]:
            return [f"parameter {name}={text!r} is none of {rule['enum']}"]
        if rule["type"] == "boolean" and text.lower() not in ("true", "false"):
            return [f"parameter {name}={text!r} is no boolean"]
        if rule["type"] == "integer" or rule.get("format") in LONG:
            if not re.fullmatch(r"-?\d+", text):
                return [f"parameter {name}={text!r} is no number"]
            if not int(rule.get("minimum", text)) <= int(text) <= int(rule.get("maximum", text)):
                return [f"parameter {name}={text!r} is out of its range"]
        return []

    def required(self, name, body, schema):
        schema = self.schemas[schema["$ref"]] if "$ref" in schema else schema
        needs = lambda rule: name in rule.get("annotations", {}).get("required", [])
        return [f"{field} is required by {name}" for field, rule in schema.get("properties", {}).items() if needs(rule) and field not in body]

    def value(self, value, schema, where):
        """Whether a value is as its schema says."""
        if "$ref" in schema:
            schema = self.schemas[schema["$ref"]]
        kind = schema.get("type")
        if value is None:
            return []
        if kind == "object":
            return self.object(value, schema, where)
        if kind == "array":
            if not isinstance(value, list):
                return [f"{where} is no list"]
            return [wrong for at, item in enumerate(value) for wrong in self.value(item, schema["items"], f"{where}[{at}]")]
        if kind == "string":
            return self.string(value, schema, where)
        if kind == "boolean" and not isinstance(value, bool):
            return [f"{where} is no boolean: {value!r}"]
        if kind == "integer":
            if isinstance(value, bool) or not isinstance(value, int):
                return [f"{where} is no integer: {value!r}"]
            if abs(value) >= 2 ** INTEGERS.get(schema.get("format"), 63):
                return [f"{where} is out of its range: {value}"]
        if kind == "number" and (isinstance(value, bool) or not isinstance(value, (int, float))):
            return [f"{where} is no number: {value!r}"]
        return []

    def object(self, value, schema, where):
        if not isinstance(value, dict):
            return [f"{where} is no object"]
        known, more = schema.get("properties", {}), schema.get("additionalProperties")
        wrong = []
        for name, item in value.items():
            rule = known.get(name, more)
            if rule is None:
                wrong.append(f"{where} has no field {name}")
            else:
                wrong += self.value(item, rule, f"{where}.{name}")
        return wrong

    def string(self, value, schema, where):
        shape = schema.get("format")
        # On the wire Google takes and gives long integers as strings, and takes numbers too.
        if shape in LONG and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            return [f"{where} is no string: {value!r}"]
        if schema.get("enum") and value not in schema["enum"]:
            return [f"{where}={value!r} is none of its values"]
        if shape in LONG:
            low, high = LONG[shape]
            if not re.fullmatch(r"-?\d+", value) or not low <= int(value) <= high:
                return [f"{where}={value!r} is no {shape}"]
        if shape == "byte":
            try:
                base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
            except ValueError:
                return [f"{where}={value!r} is no base64"]
        if shape == "date-time" and not STAMP.fullmatch(value):
            return [f"{where}={value!r} is no RFC 3339 time"]
        # Patterns are meant for what is given at an insert; names are what Google does check there.
        if where == "body.name" and schema.get("pattern") and not re.fullmatch(schema["pattern"], value):
            return [f"{where}={value!r} is not as {schema['pattern']}"]
        return []
