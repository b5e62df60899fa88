// An app to deploy: it says who it is over HTTP, and misbehaves on demand.
//
//	GET /             {"version", "hostname", "pid", "started", "requests", "env"}
//	GET /healthz      200
//	GET /readyz       200 once it is ready, 503 before that and while it drains
//	GET /exit?code=N  answers, and ends with the code
//
// Its environment, most of which the image has set (../catalogue):
//
//	VERSION            what it says it is
//	PORT               where it listens (8080)
//	READY_AFTER        milliseconds until it is ready, or "never" (0)
//	CRASH, CRASH_CODE  milliseconds until it ends, and with which code (never; 1)
//	LOG_LINES          how many lines it logs at start besides the usual one (0)
//	DRAIN              milliseconds that it goes on answering after SIGTERM (0)
//
// There is no shell in the image. For `kubectl exec` there are `web version`, `web env` and `web get URL`,
// which prints what a pod is answered.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	version  = os.Getenv("VERSION")
	started  = time.Now().UTC()
	requests atomic.Int64
	ready    atomic.Bool
)

func main() {
	if len(os.Args) > 1 {
		answer(os.Args[1:])
		return
	}
	log.SetFlags(0)
	log.SetOutput(os.Stdout)
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	log.Printf("web %s: starting on port %s", version, port)
	for line := range number("LOG_LINES", 0) {
		log.Printf("web %s: line %d", version, line+1)
	}
	if os.Getenv("CRASH") != "" {
		time.AfterFunc(milliseconds("CRASH"), func() {
			log.Printf("web %s: crashing, as CRASH says", version)
			os.Exit(number("CRASH_CODE", 1))
		})
	}
	if os.Getenv("READY_AFTER") != "never" {
		time.AfterFunc(milliseconds("READY_AFTER"), func() { ready.Store(true) })
	}
	go end()

	http.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, "not ready")
			return
		}
		fmt.Fprintln(w, "ok")
	})
	http.HandleFunc("GET /exit", logged(exit))
	http.HandleFunc("/", logged(about))
	log.Fatal(http.ListenAndServe(":"+port, nil))
}

// logged writes a line a request. Probes have none: a log is for what its reader did.
func logged(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		log.Printf("web %s: %s %s from %s", version, r.Method, r.URL, r.RemoteAddr)
		handler(w, r)
	}
}

func about(w http.ResponseWriter, _ *http.Request) {
	hostname, _ := os.Hostname()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{
		"version":  version,
		"hostname": hostname,
		"pid":      os.Getpid(),
		"started":  started.Format(time.RFC3339Nano),
		"requests": requests.Load(),
		"env":      environment(),
	})
}

func exit(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.URL.Query().Get("code"))
	if err != nil {
		http.Error(w, "what code?", http.StatusBadRequest)
		return
	}
	fmt.Fprintln(w, "goodbye")
	// Once the answer is on its way.
	time.AfterFunc(50*time.Millisecond, func() { os.Exit(code) })
}

func end() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
	ready.Store(false)
	drain := milliseconds("DRAIN")
	log.Printf("web %s: ending in %v", version, drain)
	time.Sleep(drain)
	os.Exit(0)
}

func answer(question []string) {
	switch {
	case len(question) == 1 && question[0] == "version":
		fmt.Println(version)
	case len(question) == 1 && question[0] == "env":
		for _, variable := range os.Environ() {
			fmt.Println(variable)
		}
	case len(question) == 2 && question[0] == "get":
		client := http.Client{Timeout: 5 * time.Second}
		response, err := client.Get(question[1])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		defer response.Body.Close()
		io.Copy(os.Stdout, response.Body)
		if response.StatusCode >= 400 {
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: web [version | env | get URL]")
		os.Exit(2)
	}
}

// environment leaves out what Kubernetes itself adds to every pod.
func environment() map[string]string {
	variables := map[string]string{}
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, "KUBERNETES_") {
			variables[name] = value
		}
	}
	return variables
}

func number(name string, otherwise int) int {
	if value, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return value
	}
	return otherwise
}

func milliseconds(name string) time.Duration {
	return time.Duration(number(name, 0)) * time.Millisecond
}
