// Renders a chart with Helm's own engine, as `helm template` does, and lints it, as `helm lint` does.
//
//	helm-render CHART [VALUES.yaml]
//
// Prints the manifests, each after a line "---". Exits with 1 and the reason for values that the chart's schema does not
// take, for templates that fail, and for what the linter calls an error.
package main

import (
	"fmt"
	"os"
	"path"
	"sort"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	values := chartutil.Values{}
	if len(args) > 1 {
		var err error
		if values, err = chartutil.ReadValuesFile(args[1]); err != nil {
			return err
		}
	}
	chart, err := loader.Load(args[0])
	if err != nil {
		return err
	}
	options := chartutil.ReleaseOptions{Name: "test", Namespace: "databases", Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, values, options, chartutil.DefaultCapabilities)
	if err != nil {
		return err
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return err
	}
	for _, message := range lint.All(args[0], values, "databases", true).Messages {
		if message.Severity >= support.ErrorSev {
			return fmt.Errorf("lint: %w", message.Err)
		}
		fmt.Fprintln(os.Stderr, message)
	}
	names := make([]string, 0, len(files))
	for name := range files {
		if ext := path.Ext(name); ext == ".yaml" && strings.TrimSpace(files[name]) != "" {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Printf("---\n%s\n", strings.TrimSpace(files[name]))
	}
	return nil
}
