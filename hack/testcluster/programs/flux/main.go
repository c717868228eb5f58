// What Flux makes of our examples and of our objects, by Flux's own Go types and rules:
//
//	flux check MANIFESTS.yaml...             refuses fields that Flux's kinds do not have
//	flux health MANIFESTS.yaml OBJECT.yaml...  prints a line of JSON for each object: {"kstatus": ..., "flux": ...},
//	    by kstatus alone, and by the `healthCheckExprs` of the Kustomization in MANIFESTS.yaml
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	apiyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	helm "github.com/fluxcd/helm-controller/api/v2"
	kustomization "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/runtime/cel"
	source "github.com/fluxcd/source-controller/api/v1"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 1 && args[0] == "check" {
		for _, path := range args[1:] {
			if _, err := objects(path); err != nil {
				return err
			}
		}
		return nil
	}
	if len(args) > 2 && args[0] == "health" {
		return health(args[1], args[2:])
	}
	return errors.New("flux check MANIFESTS.yaml... | flux health MANIFESTS.yaml OBJECT.yaml...")
}

// objects returns what is in a file, every document as the Go type of its kind.
func objects(path string) ([]runtime.Object, error) {
	scheme := runtime.NewScheme()
	known := runtime.NewSchemeBuilder(
		source.AddToScheme, helm.AddToScheme, kustomization.AddToScheme, core.AddToScheme, rbac.AddToScheme,
	)
	if err := known.AddToScheme(scheme); err != nil {
		return nil, err
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var found []runtime.Object
	documents := apiyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		object, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		found = append(found, object)
	}
}

func health(manifests string, paths []string) error {
	known, err := objects(manifests)
	if err != nil {
		return err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(text, &object.Object); err != nil {
			return err
		}
		text, err = json.Marshal(object.Object) // whole numbers as the API server gives them, not as floats
		if err != nil {
			return err
		}
		if err := object.UnmarshalJSON(text); err != nil {
			return err
		}
		plain, err := status.Compute(object)
		if err != nil {
			return err
		}
		told := map[string]string{"kstatus": plain.Status.String()}
		if told["flux"], err = byExpressions(known, object); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
			return err
		}
	}
	return nil
}

// byExpressions returns how the Kustomization among the known objects sees an object; empty if it has no word for it.
func byExpressions(known []runtime.Object, object *unstructured.Unstructured) (string, error) {
	for _, item := range known {
		whole, is := item.(*kustomization.Kustomization)
		if !is {
			continue
		}
		for _, check := range whole.Spec.HealthCheckExprs {
			if check.APIVersion != object.GetAPIVersion() || check.Kind != object.GetKind() {
				continue
			}
			evaluator, err := cel.NewStatusEvaluator(&check.HealthCheckExpressions)
			if err != nil {
				return "", err
			}
			result, err := evaluator.Evaluate(context.Background(), object)
			if err != nil {
				return "", err
			}
			return result.Status.String(), nil
		}
	}
	return "", nil
}
