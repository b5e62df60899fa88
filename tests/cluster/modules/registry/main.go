// The registry that the test cluster pulls from, and the way into it.
//
//	registry serve ADDRESS FOLDER
//	    serves the registry protocol over plain HTTP. Layers are in the folder, manifests in memory.
//	registry push ADDRESS IMAGE [-user UID] [-entry PATH] [-env KEY=VALUE]... SOURCE=DESTINATION...
//	    makes an image of one layer from files, pushes it, and prints its digest. The same files and
//	    settings have the same digest every time.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"path"
	"runtime"
	"sort"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func main() {
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "serve":
		// Where uploads lie, too, until they are complete.
		if err := os.MkdirAll(args[2], 0o755); err != nil {
			return err
		}
		blobs := registry.NewDiskBlobHandler(args[2])
		return http.ListenAndServe(args[1], registry.New(registry.WithBlobHandler(blobs)))
	case len(args) > 3 && args[0] == "push":
		return push(args[1], args[2], args[3:])
	default:
		return errors.New("usage: registry serve ADDRESS FOLDER | push ADDRESS IMAGE [-user UID] [-entry PATH] [-env KEY=VALUE]... SOURCE=DESTINATION...")
	}
}

// settings is a flag that may be given several times.
type settings []string

func (s *settings) String() string     { return strings.Join(*s, " ") }
func (s *settings) Set(v string) error { *s = append(*s, v); return nil }

func push(address, image string, args []string) error {
	flags := flag.NewFlagSet("push", flag.ContinueOnError)
	user := flags.String("user", "65532", "who the process runs as")
	entry := flags.String("entry", "", "path of the program in the image (default: the first file)")
	var env settings
	flags.Var(&env, "env", "a variable of the image, KEY=VALUE")
	if err := flags.Parse(args); err != nil {
		return err
	}
	files := flags.Args()
	if len(files) == 0 {
		return errors.New("an image needs a file")
	}
	if *entry == "" {
		_, destination, _ := strings.Cut(files[0], "=")
		*entry = destination
	}
	tag, err := name.NewTag(address+"/"+repository(image), name.Insecure)
	if err != nil {
		return err
	}
	layer, err := layerOf(files)
	if err != nil {
		return err
	}
	made, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layer)
	if err != nil {
		return err
	}
	made, err = mutate.ConfigFile(made, &v1.ConfigFile{
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Config:       v1.Config{Entrypoint: []string{*entry}, User: *user, Env: env, WorkingDir: "/"},
		RootFS:       v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{must(layer.DiffID())}},
	})
	if err != nil {
		return err
	}
	if err := remote.Write(tag, made); err != nil {
		return err
	}
	digest, err := made.Digest()
	if err != nil {
		return err
	}
	fmt.Printf("%s@%s\n", image, digest)
	return nil
}

// repository is what containerd asks a mirror for: the name without its registry, which for Docker
// Hub's own images begins with "library/".
func repository(image string) string {
	registry, rest, found := strings.Cut(image, "/")
	if !found {
		return "library/" + image
	}
	if !strings.ContainsAny(registry, ".:") && registry != "localhost" {
		return image
	}
	if registry == "docker.io" && !strings.Contains(rest, "/") {
		return "library/" + rest
	}
	return rest
}

// layerOf packs files, each SOURCE=DESTINATION, with their folders. It stays uncompressed: it travels
// within one machine.
func layerOf(files []string) (v1.Layer, error) {
	sources := map[string]string{}
	folders := map[string]bool{}
	for _, file := range files {
		source, destination, found := strings.Cut(file, "=")
		if !found || !path.IsAbs(destination) {
			return nil, fmt.Errorf("%q is not SOURCE=/DESTINATION", file)
		}
		destination = path.Clean(destination)
		sources[destination] = source
		for folder := path.Dir(destination); folder != "/"; folder = path.Dir(folder) {
			folders[folder] = true
		}
	}
	var buffer bytes.Buffer
	archive := tar.NewWriter(&buffer)
	for _, folder := range sorted(folders) {
		header := tar.Header{Typeflag: tar.TypeDir, Name: folder[1:] + "/", Mode: 0o755}
		if err := archive.WriteHeader(&header); err != nil {
			return nil, err
		}
	}
	for _, destination := range sorted(sources) {
		content, err := os.ReadFile(sources[destination])
		if err != nil {
			return nil, err
		}
		about, err := os.Stat(sources[destination])
		if err != nil {
			return nil, err
		}
		header := tar.Header{Name: destination[1:], Mode: 0o644, Size: int64(len(content))}
		if about.Mode()&0o111 != 0 {
			header.Mode = 0o755
		}
		if err := archive.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(content); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return static.NewLayer(buffer.Bytes(), types.OCIUncompressedLayer), nil
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
