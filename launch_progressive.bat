@echo off
rem Hands over to launch.py, which does the work on every platform.
where py >nul 2>nul && (py -3 "%~dp0launch.py" %*) || (python "%~dp0launch.py" %*)
exit /b %ERRORLEVEL%
