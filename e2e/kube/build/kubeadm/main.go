package main

import (
	"os"
	"path/filepath"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubernetes/cmd/kubeadm/app"
)

func main() {
	var err error
	if filepath.Base(os.Args[0]) == "kubectl" {
		err = cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand())
	} else {
		err = app.Run()
	}
	util.CheckErr(err)
}
