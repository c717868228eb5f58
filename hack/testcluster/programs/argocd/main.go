// The two programs of Argo CD that sync, in one binary: the name it is started by (argv[0], a link) picks the program.
// The third, argocd-health, runs a health check in the Lua that Argo CD has:
//
//	argocd-health HEALTH.lua OBJECT.yaml...   prints a line of JSON for each object: {"status": ..., "message": ...}
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"

	controller "github.com/argoproj/argo-cd/v3/cmd/argocd-application-controller/commands"
	repository "github.com/argoproj/argo-cd/v3/cmd/argocd-repo-server/commands"
	"github.com/argoproj/argo-cd/v3/util/log"
	"github.com/argoproj/argo-cd/v3/util/lua"
)

func main() {
	klog.SetLogger(log.NewLogrusLogger(log.NewWithCurrentConfig()))
	command := pick(filepath.Base(os.Args[0]))
	if command == nil {
		fmt.Fprintf(os.Stderr, "%s: no such program in here\n", os.Args[0])
		os.Exit(2)
	}
	if command.Execute() != nil {
		os.Exit(1)
	}
}

func pick(name string) *cobra.Command {
	switch name {
	case "argocd-application-controller":
		return controller.NewCommand()
	case "argocd-repo-server":
		return repository.NewCommand()
	case "argocd-health":
		return &cobra.Command{
			Use:          "argocd-health HEALTH.lua OBJECT.yaml...",
			Args:         cobra.MinimumNArgs(2),
			SilenceUsage: true,
			RunE:         func(_ *cobra.Command, args []string) error { return health(args[0], args[1:]) },
		}
	}
	return nil
}

func health(check string, objects []string) error {
	script, err := os.ReadFile(check)
	if err != nil {
		return err
	}
	for _, path := range objects {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(text, &object.Object); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		machine := lua.VM{} // without open libraries, as for the checks in argocd-cm
		found, err := machine.ExecuteHealthLua(object, string(script))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
			return err
		}
	}
	return nil
}
