(component
(core module $m (func (export "run") (result i32) (i32.const 0)))
(core instance $i (instantiate $m))
(func $run (result u32) (canon lift (core func $i "run")))
(instance $handler (export "run" (func $run)))
(export "eve:skill/handler@0.1.0" (instance $handler)))
