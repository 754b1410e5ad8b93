// Renders a Helm chart as "helm template" does, on what helm itself stands on: Go's text/template and sprig.
//
//	render CHART RELEASE NAMESPACE VALUES.yaml...      prints every template's output, values merged in order
//
// What it does not know it does not pass over: a function that is not here, a value that is not in values.yaml
// (helm would print nothing), a chart that has dependencies or hooks end it with status 1.
package main

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"gopkg.in/yaml.v3"
)

type values = map[string]interface{}

func readYAML(path string) values {
	text, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	read := values{}
	if err := yaml.Unmarshal(text, &read); err != nil {
		log.Fatalf("%s: %v", path, err)
	}
	return read
}

// Helm's rule: objects are merged, all else is replaced, null removes. A key that values.yaml does not have is
// most likely misspelt, but for objects that it has empty, which are the user's own.
func merge(into, more values, at string) {
	for key, value := range more {
		before, known := into[key]
		if !known && len(into) > 0 {
			log.Fatalf("values.yaml has no %s%s", at, key)
		}
		inner, isObject := value.(values)
		if outer, both := before.(values); both && isObject {
			merge(outer, inner, at+key+".")
		} else if value == nil {
			delete(into, key)
		} else {
			into[key] = value
		}
	}
}

func toYAML(value interface{}) (string, error) {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	err := encoder.Encode(value)
	return strings.TrimSuffix(out.String(), "\n"), err
}

func capital(chart values) values {
	given := values{}
	for key, value := range chart {
		given[strings.ToUpper(key[:1])+key[1:]] = value
	}
	return given
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 4 {
		log.Fatal("usage: render CHART RELEASE NAMESPACE VALUES.yaml...")
	}
	folder := os.Args[1]
	chart := readYAML(filepath.Join(folder, "Chart.yaml"))
	if chart["apiVersion"] != "v2" || chart["dependencies"] != nil {
		log.Fatal("Chart.yaml: not of version v2, or with dependencies")
	}
	given := readYAML(filepath.Join(folder, "values.yaml"))
	for _, path := range os.Args[4:] {
		merge(given, readYAML(path), "")
	}

	all := template.New("").Option("missingkey=error")
	functions := sprig.TxtFuncMap()
	for _, name := range []string{"env", "expandenv"} { // helm takes them out
		delete(functions, name)
	}
	functions["toYaml"] = toYAML
	functions["include"] = func(name string, data interface{}) (string, error) {
		var out strings.Builder
		err := all.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	all.Funcs(functions)

	paths, _ := filepath.Glob(filepath.Join(folder, "templates", "*"))
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			log.Fatal(err)
		}
		if strings.Contains(string(text), "helm.sh/hook") {
			log.Fatalf("%s: hooks are not known here", path)
		}
		if _, err := all.New(filepath.Base(path)).Parse(string(text)); err != nil {
			log.Fatal(err)
		}
	}
	data := values{
		"Values":  given,
		"Chart":   capital(chart),
		"Release": values{"Name": os.Args[2], "Namespace": os.Args[3], "Service": "Helm"},
	}
	for _, path := range paths {
		if name := filepath.Base(path); !strings.HasPrefix(name, "_") {
			fmt.Printf("---\n# Source: %s\n", name)
			if err := all.ExecuteTemplate(os.Stdout, name, data); err != nil {
				log.Fatal(err)
			}
		}
	}
}
