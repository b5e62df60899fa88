// Makes JSON Schemas, one file a kind, of what Kubernetes and its extensions say about themselves.
//
//	schemas FOLDER FILE...
//
// A file is an OpenAPI 3 document of one of Kubernetes' API groups (.json) or definitions of custom resources
// (.yaml). Fields that a kind does not have are refused, as the API server refuses them when it is asked to be
// strict. What is written is KIND_GROUP_VERSION.json in the folder.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/util/yaml"
)

// object is JSON of any shape.
type object = map[string]any

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: schemas FOLDER FILE...")
		os.Exit(1)
	}
	for _, file := range os.Args[2:] {
		if err := convert(os.Args[1], file); err != nil {
			fmt.Fprintf(os.Stderr, "schemas: %s: %v\n", file, err)
			os.Exit(1)
		}
	}
}

func convert(folder, file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if filepath.Ext(file) == ".json" {
		var document object
		if err := json.Unmarshal(content, &document); err != nil {
			return err
		}
		return group(folder, document)
	}
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		var definition object
		if err := documents.Decode(&definition); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if definition["kind"] != "CustomResourceDefinition" {
			continue
		}
		if err := custom(folder, definition); err != nil {
			return err
		}
	}
}

// group writes the kinds of a group. Each file has all of the group's schemas, because they refer to each other.
func group(folder string, document object) error {
	schemas := at(document, "components", "schemas")
	for _, schema := range schemas {
		refuseOthers(schema)
	}
	for name, schema := range schemas {
		kinds, _ := schema.(object)["x-kubernetes-group-version-kind"].([]any)
		// Several groups mean something that all have, such as DeleteOptions.
		if len(kinds) != 1 {
			continue
		}
		kind, _ := kinds[0].(object)
		whole := object{"$ref": "#/components/schemas/" + name, "components": object{"schemas": schemas}}
		if err := write(folder, kind["kind"], kind["group"], kind["version"], whole); err != nil {
			return err
		}
	}
	return nil
}

func custom(folder string, definition object) error {
	spec := at(definition, "spec")
	versions, _ := spec["versions"].([]any)
	for _, version := range versions {
		version, _ := version.(object)
		schema := at(version, "schema", "openAPIV3Schema")
		if schema == nil {
			return errors.New("a version without a schema")
		}
		refuseOthers(schema)
		// What every object has; the API server takes care of it.
		properties := at(schema, "properties")
		properties["apiVersion"] = object{"type": "string"}
		properties["kind"] = object{"type": "string"}
		properties["metadata"] = object{"type": "object"}
		if err := write(folder, at(spec, "names")["kind"], spec["group"], version["name"], schema); err != nil {
			return err
		}
	}
	return nil
}

// refuseOthers closes every object with known fields, however deep.
func refuseOthers(schema any) {
	switch schema := schema.(type) {
	case object:
		_, named := schema["properties"].(object)
		_, others := schema["additionalProperties"]
		if named && !others && schema["x-kubernetes-preserve-unknown-fields"] != true {
			schema["additionalProperties"] = false
		}
		if schema["x-kubernetes-int-or-string"] == true {
			delete(schema, "type")
		}
		for key, inner := range schema {
			if key == "anyOf" || key == "oneOf" || key == "not" {
				// They say more about fields that are known already.
				continue
			}
			refuseOthers(inner)
		}
	case []any:
		for _, inner := range schema {
			refuseOthers(inner)
		}
	}
}

func at(value object, path ...string) object {
	for _, key := range path {
		value, _ = value[key].(object)
	}
	return value
}

func write(folder string, kind, group, version any, schema object) error {
	text, err := json.Marshal(schema)
	if err != nil {
		return err
	}
	// kubeconform takes the version for the group where there is none.
	if group == "" {
		group = version
	}
	name := fmt.Sprintf("%s_%s_%s.json", kind, group, version)
	return os.WriteFile(filepath.Join(folder, strings.ToLower(name)), text, 0o644)
}
