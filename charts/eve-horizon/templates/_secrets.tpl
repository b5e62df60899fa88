{{- define "eve.secretName" -}}
{{- .Values.secrets.existingSecret | default "eve-secrets" -}}
{{- end }}

{{/* Whether the Secret is made here of values. */}}
{{- define "eve.makesSecret" -}}
{{- if not (or .Values.secrets.existingSecret .Values.secrets.externalSecrets.enabled) }}true{{ end -}}
{{- end }}

{{/* Whether logins are made in the database. */}}
{{- define "eve.makesLogins" -}}
{{- $db := .Values.database -}}
{{- if and (include "eve.makesSecret" .) $db.migrate $db.logins.create (or $db.url (not $db.external)) (not $db.workerUrl) (not $db.controlPlaneUrl) }}true{{ end -}}
{{- end }}

{{/* Whoever connects has another name and password in the same URL. Supabase's pooler wants the project behind
the name, as it stands in the owner's. Call with (dict "url" URL "login" NAME "password" PASSWORD). */}}
{{- define "eve.urlOfLogin" -}}
{{- $url := urlParse .url -}}
{{- $user := $url.userinfo | splitList ":" | first -}}
{{- $project := regexFind "\\.[a-z0-9]+$" $user -}}
{{- $_ := set $url "userinfo" (printf "%s%s:%s" .login $project .password) -}}
{{- urlJoin $url -}}
{{- end }}

{{- define "eve.urlWithoutCredentials" -}}
{{- $url := urlParse . -}}
{{- $_ := set $url "userinfo" "" -}}
{{- urlJoin $url -}}
{{- end }}

{{/* An Ed25519 key as `eve keygen` prints it, as JSON: the seed is the end of the private key's PKCS 8, and the public
key follows its algorithm's name in a certificate. */}}
{{- define "eve.keyPair" -}}
{{- $pem := genPrivateKey "ed25519" -}}
{{- $certificate := (genSelfSignedCertWithKey "eve" nil nil 1 $pem).Cert -}}
{{- $private := $pem | replace "\n" "" | trimPrefix "-----BEGIN PRIVATE KEY-----" | trimSuffix "-----END PRIVATE KEY-----" | b64dec -}}
{{- $der := $certificate | replace "\n" "" | trimPrefix "-----BEGIN CERTIFICATE-----" | trimSuffix "-----END CERTIFICATE-----" | b64dec -}}
{{- $public := index (splitList (b64dec "MCowBQYDK2VwAyEA") $der) 1 -}}
{{- dict "signing" (substr 16 48 $private | b64enc) "verify" (substr 0 32 $public | b64enc) | toJson -}}
{{- end }}

{{/* What `eve-secrets` holds, as JSON of plain texts: what values say, else what is there already, else made up. */}}
{{- define "eve.secretData" -}}
{{- $db := .Values.database -}}
{{- $skills := .Values.skillsDatabase -}}
{{- $there := dict -}}
{{- range $key, $value := ((lookup "v1" "Secret" .Release.Namespace "eve-secrets").data | default dict) -}}
{{- $_ := set $there $key (b64dec $value) -}}
{{- end -}}
{{- $data := dict -}}
{{- $owner := $db.url -}}
{{- $skillsUrl := $skills.url -}}
{{- if not $db.external -}}
{{- $password := index $there "postgres-password" | default (randAlphaNum 40) -}}
{{- $_ := set $data "postgres-password" $password -}}
{{- $server := printf "postgres://postgres:%s@eve-postgres.%s.svc:5432" $password .Release.Namespace -}}
{{- $owner = printf "%s/eve" $server -}}
{{- $skillsUrl = $skillsUrl | default (printf "%s/postgres" $server) -}}
{{- end -}}
{{- if and $db.migrate (not $owner) -}}
{{- fail "database.url is missing: the URL of the owner of a Postgres, such as postgres://eve_owner:…@db/eve. With database.migrate=false somebody else runs `eve migrate` before every upgrade" -}}
{{- end -}}
{{- with $owner }}{{ $_ := set $data "owner-database-url" . }}{{ end -}}
{{- if include "eve.makesLogins" . -}}
{{- range $login, $key := dict "eve_cp" "control-plane" "eve_pool" "worker" "eve_keda" "metrics" -}}
{{- $password := index $there (printf "%s-password" $key) | default (randAlphaNum 40) -}}
{{- $_ := set $data (printf "%s-password" $key) $password -}}
{{- $name := eq $key "worker" | ternary "database-url" (printf "%s-database-url" $key) -}}
{{- $_ := set $data $name (include "eve.urlOfLogin" (dict "url" $owner "login" $login "password" $password)) -}}
{{- end -}}
{{- else -}}
{{- $_ := set $data "control-plane-database-url" (required "database.controlPlaneUrl is missing: the URL of a login in the role eve_control. With database.url, the owner's, and database.logins.create, logins are made" $db.controlPlaneUrl) -}}
{{- $_ := set $data "database-url" (required "database.workerUrl is missing: the URL of a login in the role eve_worker; workers never get the owner's" $db.workerUrl) -}}
{{- with $db.metricsUrl }}{{ $_ := set $data "metrics-database-url" . }}{{ end -}}
{{- end -}}
{{- if .Values.keys.signing -}}
{{- $_ := set $data "signing-key" .Values.keys.signing -}}
{{- $_ := set $data "verify-keys" (required "keys.verify is missing: the public key of keys.signing" .Values.keys.verify) -}}
{{- else if index $there "signing-key" -}}
{{- $_ := set $data "signing-key" (index $there "signing-key") -}}
{{- $_ := set $data "verify-keys" (.Values.keys.verify | default (index $there "verify-keys")) -}}
{{- else -}}
{{- $pair := include "eve.keyPair" . | fromJson -}}
{{- $_ := set $data "signing-key" $pair.signing -}}
{{- $_ := set $data "verify-keys" (list $pair.verify .Values.keys.verify | compact | join ",") -}}
{{- end -}}
{{- $_ := set $data "sealing-key" (.Values.keys.sealing | default (index $there "sealing-key") | default (randBytes 32)) -}}
{{- with .Values.keys.oldSealing }}{{ $_ := set $data "old-sealing-keys" . }}{{ end -}}
{{- $_ := set $data "skills-key" (.Values.keys.skills | default (index $there "skills-key") | default (randBytes 32)) -}}
{{- with $skillsUrl -}}
{{- $_ := set $data "skills-database-url" . -}}
{{- $_ := set $data "worker-skills-database-url" ($skills.workerUrl | default (include "eve.urlWithoutCredentials" .)) -}}
{{- end -}}
{{- with .Values.auth.jwtSecret }}{{ $_ := set $data "jwt-secret" . }}{{ end -}}
{{- toJson $data -}}
{{- end }}
