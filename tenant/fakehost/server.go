// Package fakehost is for the tests of package tenant and its CLI: a management
// server and a hypervisor in one process, on the hypervisor's side of package
// bond, honest or evil in a chosen way. It executes nothing.
package fakehost

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/client"
)

// Token is the only API token that the server takes.
const Token = "token-for-tests"

// Ways to be evil, or in trouble. The empty one is honest.
const (
	NoReceipt       = "no-receipt"       // says done, returns no receipt
	ForgedReceipt   = "forged-receipt"   // returns random bytes as the receipt
	ReplayedReceipt = "replayed-receipt" // executes nothing, returns the receipt of an earlier command
	OtherBond       = "other-bond"       // returns the receipt of another VM's hypervisor
	SwappedKey      = "swapped-key"      // registers a key of its own
	OtherHost       = "other-host"       // shows another hypervisor
	Garbage         = "garbage"          // no JSON
	Huge            = "huge"             // endless bodies
	Trouble         = "trouble"          // 503
	DropCommands    = "drop-commands"    // executes commands and drops the connection
	DropCreate      = "drop-create"      // registers and drops the connection
	DropUploads     = "drop-uploads"     // drops every second upload
	Redirect        = "redirect"         // uses tickets on another VM
	LateTicket      = "late-ticket"      // the host's clock is an hour ahead
	NoDescriptor    = "no-descriptor"    // withholds the descriptor
	OldDescriptor   = "old-descriptor"   // returns the descriptor of the first start
	NoChunks        = "no-chunks"        // withholds sealed chunks
	CutAudit        = "cut-audit"        // leaves out the first half of the audit log
	Rewritten       = "rewritten"        // the hypervisor's log was rewritten
	SetBack         = "set-back"         // an old copy of the hypervisor's state was put back
	RefuseCreate    = "refuse-create"    // the gate refuses registrations
	Hang            = "hang"             // commands never return
	OtherFile       = "other-file"       // claims to have stored another file
	BackAndForth    = "back-and-forth"   // the upload's offset never settles
	DeafGuest       = "deaf-guest"       // the guest ignores the power button
	NoConfirmation  = "no-confirmation"  // returns no confirmation, now or later
	EndlessBuild    = "endless-build"    // disks get no further
)

// Server is the fake.
type Server struct {
	HTTP *httptest.Server

	// Step is called after each hypercall of a command that is watched, to slow it
	// down. Set it before the first request.
	Step func(command string)

	mu     sync.Mutex
	evil   string
	key    *bond.HostKey
	images map[string]*image
	vms    map[string]*vm
	bases  map[string]base
	puts   int

	received atomic.Int64

	keepers map[string]KeeperEnd
	sockets map[*websocket.Conn]bool // of open channels
}

type image struct {
	client.Image
	base string
	data []byte
}

// New starts a fake.
func New() (*Server, error) {
	key, err := bond.GenerateHostKey()
	if err != nil {
		return nil, err
	}
	s := &Server{key: key, images: map[string]*image{}, vms: map[string]*vm{}, bases: map[string]base{}, keepers: map[string]KeeperEnd{}, sockets: map[*websocket.Conn]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/host", s.host)
	mux.HandleFunc("GET /v1/images", s.listImages)
	mux.HandleFunc("POST /v1/images", s.newImage)
	mux.HandleFunc("GET /v1/images/{id}", s.getImage)
	mux.HandleFunc("DELETE /v1/images/{id}", s.removeImage)
	mux.HandleFunc("PUT /v1/images/{id}/data", s.putImage)
	mux.HandleFunc("GET /v1/bases", s.listBases)
	mux.HandleFunc("POST /v1/bases/{name}/images", s.newBlank)
	mux.HandleFunc("GET /v1/vms", s.listVMs)
	mux.HandleFunc("POST /v1/vms", s.createVM)
	mux.HandleFunc("GET /v1/vms/{id}", s.getVM)
	mux.HandleFunc("GET /v1/vms/{id}/disks", s.disks)
	mux.HandleFunc("POST /v1/vms/{id}/commands", s.command)
	mux.HandleFunc("POST /v1/vms/{id}/commands/live", s.command)
	mux.HandleFunc("POST /v1/vms/{id}/delegated", s.delegated)
	mux.HandleFunc("GET /v1/vms/{id}/channel", s.channel)
	s.HTTP = httptest.NewTLSServer(s.guard(mux))
	return s, nil
}

// Close stops the fake.
func (s *Server) Close() {
	s.CutChannels()
	s.HTTP.CloseClientConnections()
	s.HTTP.Close()
}

// Evil chooses how to behave from now on.
func (s *Server) Evil(mode string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evil = mode
}

// Fingerprint is the hypervisor's.
func (s *Server) Fingerprint() string { return s.key.Public().Fingerprint() }

// TLSFingerprint is the server's.
func (s *Server) TLSFingerprint() string {
	return bond.HostID(sha256.Sum256(s.HTTP.Certificate().RawSubjectPublicKeyInfo)).Fingerprint()
}

// Images returns how many images are stored.
func (s *Server) Images() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.images)
}

// VMs returns how many VMs the hypervisor knows.
func (s *Server) VMs() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.vms)
}

// guard checks the token and plays the troubles that concern every request.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+Token {
			problem(w, http.StatusUnauthorized, "", "no such token")
			return
		}
		r.Body = counted{r.Body, s}
		switch s.mode() {
		case Garbage:
			_, _ = io.WriteString(w, "<html>\x1b[2Jnot JSON</html>")
		case Trouble:
			problem(w, http.StatusServiceUnavailable, "", "the gate is not there")
		case Huge:
			junk := strings.Repeat(" ", 1<<20)
			for range 64 {
				if _, err := io.WriteString(w, junk); err != nil {
					return
				}
			}
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func (s *Server) mode() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.evil
}

func (s *Server) now() int64 {
	if s.evil == LateTicket {
		return time.Now().Add(time.Hour).Unix()
	}
	return time.Now().Unix()
}

func problem(w http.ResponseWriter, status int, class, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"title": http.StatusText(status), "status": status, "detail": detail, "class": class})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func drop() { panic(http.ErrAbortHandler) }

func (s *Server) host(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	public := s.key.Public()
	if s.evil == OtherHost {
		other, err := bond.GenerateHostKey()
		if err != nil {
			panic(err)
		}
		public = other.Public()
	}
	answer(w, client.Host{Name: "fake", Versions: bond.Supported, PublicKey: public.Bytes(), Host: public.ID().String(), Hypervisor: "test", Accel: "tcg", Time: s.now()})
}

func (s *Server) listImages(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []client.Image{}
	for _, i := range s.images {
		list = append(list, i.Image)
	}
	answer(w, map[string]any{"images": list})
}

func (s *Server) newImage(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var in client.Image
	if json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&in) != nil {
		problem(w, http.StatusBadRequest, "", "not JSON")
		return
	}
	for _, i := range s.images {
		if i.Name == in.Name && i.Size == in.Size && i.SHA256 == in.SHA256 {
			answer(w, i.Image)
			return
		}
	}
	i := &image{Image: client.Image{ID: fmt.Sprintf("img-%d", len(s.images)+1), Name: in.Name, Size: in.Size, SHA256: in.SHA256, State: client.ImageUploading, ChunkSize: 4 << 20}}
	s.images[i.ID] = i
	answer(w, i.Image)
}

func (s *Server) getImage(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.images[r.PathValue("id")]; i != nil {
		answer(w, i.Image)
		return
	}
	problem(w, http.StatusNotFound, "", "no such image")
}

func (s *Server) removeImage(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.images, r.PathValue("id"))
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) putImage(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(io.LimitReader(r.Body, 8<<20+1))
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.images[r.PathValue("id")]
	offset, perr := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	if err != nil || perr != nil || i == nil || len(data) > 8<<20 {
		problem(w, http.StatusBadRequest, "", "bad upload")
		return
	}
	s.puts++
	if s.evil == DropUploads && s.puts%2 == 1 {
		if s.puts%4 == 1 && offset == i.Offset { // stored, but the answer is lost
			i.store(data)
		}
		drop()
	}
	if offset != i.Offset || s.evil == BackAndForth {
		at := i.Offset
		if s.evil == BackAndForth {
			at = (offset + 1) % i.Size
		}
		w.Header().Set("Upload-Offset", strconv.FormatInt(at, 10))
		problem(w, http.StatusConflict, "", fmt.Sprintf("the upload is at %d", at))
		return
	}
	i.store(data)
	if i.State == client.ImageReady {
		if sum := sha256.Sum256(i.data); hex.EncodeToString(sum[:]) != i.SHA256 {
			delete(s.images, i.ID)
			problem(w, http.StatusUnprocessableEntity, "", "the SHA-256 differs")
			return
		}
	}
	out := i.Image
	if s.evil == OtherFile {
		out.SHA256 = strings.Repeat("0", 64)
	}
	answer(w, out)
}

func (i *image) store(data []byte) {
	i.data = append(i.data, data...)
	i.Offset = int64(len(i.data))
	if i.Offset == i.Size {
		i.State = client.ImageReady
	}
}
